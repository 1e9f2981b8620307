"""Any callable `encode(list[str]) -> (n, d) array` in, numbers and pictures out."""
