//! A replicated MQTT broker.
