"""`dsdsh`: the everyday analysis commands under the names users type."""
