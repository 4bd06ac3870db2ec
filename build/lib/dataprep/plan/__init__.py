"""What will be built, decided and written down before the first picture is read."""
