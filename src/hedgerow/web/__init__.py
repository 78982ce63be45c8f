"""What people look at in a browser: the fleet dashboard. It shows, and changes nothing."""
