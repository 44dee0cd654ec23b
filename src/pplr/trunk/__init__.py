"""The server side of a split model: its rows, wire format, service and stub."""
