"""Messages, their codec and their versions. One page of specification each in `docs/messages/`."""
