"""An index behind HTTP, and the page that searches it."""
