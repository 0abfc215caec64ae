"""OpenTelemetry providers that keep what they get, and an auditor that tells them."""

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Traced:
    """A tracer provider and the spans that have ended, oldest first."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def spans(self):
        return self._exporter.get_finished_spans()

    def span(self):
        (only,) = self.spans()
        return only


class Measured:
    """A meter provider, and what its instruments show now."""

    def __init__(self):
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def points(self):
        """By metric: unit and data points."""
        data = self._reader.get_metrics_data()
        return {
            metric.name: (metric.unit, list(metric.data.data_points))
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def text(self):
        data = self._reader.get_metrics_data()
        return "" if data is None else data.to_json()


@pytest.fixture
def traced():
    return Traced()


@pytest.fixture
def measured():
    return Measured()


@pytest.fixture
def observed(auditor, traced, measured):
    """The auditor, telling both."""
    auditor.observe(tracer_provider=traced.provider, meter_provider=measured.provider)
    return auditor
