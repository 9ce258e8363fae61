//! What kernels take: each argument in the first bytes of eight.

/// What a kernel takes: numbers, and addresses on the device.
pub trait Argument {
    fn cell(self) -> u64;
}

impl Argument for u32 {
    fn cell(self) -> u64 {
        self.into()
    }
}

impl Argument for i32 {
    fn cell(self) -> u64 {
        (self as u32).into()
    }
}

impl Argument for u64 {
    fn cell(self) -> u64 {
        self
    }
}

impl Argument for f32 {
    fn cell(self) -> u64 {
        self.to_bits().into()
    }
}

impl Argument for f64 {
    fn cell(self) -> u64 {
        self.to_bits()
    }
}
