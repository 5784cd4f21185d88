"""The skeleton layouts that come with the library, by where their joints come from."""
