"""The gateway: nothing leaves the record store but by way of this package's decisions and its log."""
