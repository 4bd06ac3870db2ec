"""The page and its JSON endpoint: server, gate, service, events."""
