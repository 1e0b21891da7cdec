"""The product `departure_risk`: will this flight arrive more than 15 minutes late?"""
