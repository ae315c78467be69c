//! Quantities as Kubernetes writes them.

/// A whole number in the end: `500M`, `10Gi`, `1.5k`, `1024`. Rounded up.
pub(crate) fn parse(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, u128); 11] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("", 1),
    ];
    let (digits, factor) = SUFFIXES
        .into_iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)))?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let only_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let short = whole.len() <= 18 && fraction.len() <= 18;
    if (whole.is_empty() && fraction.is_empty())
        || !only_digits(whole)
        || !only_digits(fraction)
        || !short
    {
        return None;
    }
    let scale = 10_u128.pow(fraction.len().try_into().ok()?);
    let number: u128 = format!("{whole}{fraction}").parse().ok()?;
    // As quantities are: rounded up.
    number.checked_mul(factor)?.div_ceil(scale).try_into().ok()
}
