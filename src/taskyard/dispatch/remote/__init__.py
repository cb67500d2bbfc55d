"""Engines that make calls on other machines, by what runs there already."""
