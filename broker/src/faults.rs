//! Deliberate faults, by which tests prove that they would notice. They exist in debug builds alone.

/// Whether publishes are acknowledged before they are stored, against K1: when `MQTT_BROKER_BREAK_K1` is set.
pub fn breaks_k1() -> bool {
    cfg!(debug_assertions) && std::env::var_os("MQTT_BROKER_BREAK_K1").is_some()
}
