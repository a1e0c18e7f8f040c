"""The conv engine: pixel walker -> activation fetch and tile loader -> rows -> drain."""
