//! Quantities as Kubernetes writes them (`500m`, `1Gi`), so that two ways of writing one are seen to be equal.

/// A quantity in thousandths; none for what is not a quantity or too large to count.
pub fn milli(quantity: &str) -> Option<i128> {
    let split = quantity.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(split);
    let factor: i128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    digits.checked_mul(factor)?.checked_div(10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_amounts_are_equal_however_they_are_written() {
        for (one, other) in [("1", "1000m"), ("1Gi", "1024Mi"), ("1.5Gi", "1536Mi"), ("0.5", "500m"), ("2k", "2000")] {
            assert_eq!(milli(one), milli(other), "{one} {other}");
            assert!(milli(one).is_some());
        }
        assert!(milli("1Gi") > milli("1G"));
        for wrong in ["", "Gi", "1x", "1.2.3", "one"] {
            assert_eq!(milli(wrong), None, "{wrong}");
        }
    }
}
