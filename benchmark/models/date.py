"""The date in chat templates."""

DATE = "26 Jul 2024"
"""Date for templates that put one into a prompt, so that prompts and answers do not change with the calendar. The
templates of Llama 3.1 fall back to the same date."""
