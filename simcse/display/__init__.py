"""What people read: tables, numbers, progress bars."""
