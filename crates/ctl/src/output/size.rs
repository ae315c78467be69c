/// A size in decimal units with `digits` significant ones: `1.23MB`.
pub(crate) fn human(bytes: u64, digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    let mut text = significant(value, digits);
    // Rounding may reach the next unit: 999 960 bytes are 1MB, not 1000kB.
    while text.parse::<f64>().is_ok_and(|shown| shown >= 1000.0) && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
        text = significant(value, digits);
    }
    format!("{text}{}", UNITS[unit])
}

/// Like `%.Ng`: no trailing zeros.
fn significant(value: f64, digits: usize) -> String {
    let whole = if value < 1.0 {
        1
    } else {
        value.log10().floor() as usize + 1
    };
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_and_short() {
        for (bytes, three, four) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1kB"),
            (2_212_304, "2.21MB", "2.212MB"),
            (12_345_678, "12.3MB", "12.35MB"),
            (123_456_789, "123MB", "123.5MB"),
            (999_960, "1MB", "1MB"),
            (1_500_000_000, "1.5GB", "1.5GB"),
            (u64::MAX, "18.4EB", "18.45EB"),
        ] {
            assert_eq!(human(bytes, 3), three);
            assert_eq!(human(bytes, 4), four);
        }
    }
}
