"""Parts of kernelagent that run inside the user's Python kernel."""
