"""Recipes that valign ships, as YAML files."""
