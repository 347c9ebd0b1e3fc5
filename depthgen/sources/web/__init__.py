"""Pictures from the web: search engines and lists of URLs, on icrawler's framework."""
