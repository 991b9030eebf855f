"""The compiled part. It has no Python members: importing it registers the ops of torch.ops.halfops."""
