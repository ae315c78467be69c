//! The C library's mathematics are a file of their own, half a megabyte of which is resident in each process that loads it. What we and tokio
//! take from there are two functions.

#[cfg(target_env = "gnu")]
mod symbols {
    // SAFETY: it is what the C standard says that a function of that name is.
    #[unsafe(no_mangle)]
    extern "C" fn pow(base: f64, exponent: f64) -> f64 {
        libm::pow(base, exponent)
    }

    // SAFETY: as above.
    #[unsafe(no_mangle)]
    extern "C" fn log2(number: f64) -> f64 {
        libm::log2(number)
    }
}
