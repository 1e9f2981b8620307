"""Files in, batches out. The only room that knows `datasets`."""
