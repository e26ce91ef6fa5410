"""The papers' figures and tables redrawn beside what is measured here, and their claims put to the test."""
