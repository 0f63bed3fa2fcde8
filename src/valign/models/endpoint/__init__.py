"""Models behind an OpenAI-compatible HTTP server, as policies: they generate, and never score."""

from valign.models.endpoint.address import Address, is_endpoint
from valign.models.endpoint.budget import Budget, CostCeiling, Prices
from valign.models.endpoint.policy import EndpointPolicy

__all__ = ["Address", "Budget", "CostCeiling", "EndpointPolicy", "Prices", "is_endpoint"]
