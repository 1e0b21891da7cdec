"""The domain of credit: the default of a borrower, which is rare and known up to 30 days after the application."""
