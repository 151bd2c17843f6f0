"""The formats that data come in. Each module turns files of one format into a `onelayer.data.Dataset`."""
