"""How HTTP and WebSockets are spoken."""
