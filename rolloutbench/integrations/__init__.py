"""The same allocators inside other people's trainers, one trainer a file: each needs an extra of its own."""
