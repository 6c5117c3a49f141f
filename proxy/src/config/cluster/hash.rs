//! What consistent hashing needs besides xxHash64: MurmurHash64A, and the numbers that bounded loads draw from. Ring and
//! table must come out as Envoy's.

/// Seed of libstdc++'s `std::hash`, which Envoy's MURMUR_HASH_2 is compatible with.
pub(super) const STD_HASH_SEED: u64 = 0xc70f_6907;

/// MurmurHash64A of `bytes`.
pub(super) fn murmur2(bytes: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let shift_mix = |value: u64| value ^ (value >> 47);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(M);
    for word in words {
        let word = shift_mix(u64::from_le_bytes(*word).wrapping_mul(M)).wrapping_mul(M);
        hash = (hash ^ word).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0_u64, |tail, byte| tail << 8 | u64::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    shift_mix(shift_mix(hash).wrapping_mul(M))
}

/// The 32-bit Mersenne Twister, as C++ has it: bounded-load hashing draws from it in an order that depends on the hash.
#[derive(Debug)]
pub(super) struct MersenneTwister {
    state: Box<[u32; Self::SIZE]>,
    next: usize,
}

impl MersenneTwister {
    const SIZE: usize = 624;
    const SHIFT: usize = 397;

    /// From a seed.
    pub fn new(seed: u32) -> Self {
        let mut state = Box::new([0_u32; Self::SIZE]);
        state[0] = seed;
        for i in 1..Self::SIZE {
            let last = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: Self::SIZE }
    }

    /// The next number.
    pub fn draw(&mut self) -> u32 {
        if self.next == Self::SIZE {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::SIZE {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::SIZE] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::SHIFT) % Self::SIZE] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_envoys() {
        // From Envoy's own tests (STD_HASH_SEED).
        assert_eq!(murmur2(b"foo", STD_HASH_SEED), 9_631_199_822_919_835_226);
        assert_eq!(murmur2(b"bar", STD_HASH_SEED), 11_474_628_671_133_349_555);
        assert_eq!(murmur2(b"foo\nbar", STD_HASH_SEED), 16_306_510_975_912_980_159);
        assert_eq!(murmur2(b"lyft", STD_HASH_SEED), 12_847_078_931_730_529_320);
        assert_eq!(murmur2(b"", STD_HASH_SEED), 6_142_509_188_972_423_790);
    }

    #[test]
    fn the_ten_thousandth_number_is_the_standards() {
        let mut twister = MersenneTwister::new(5489);
        assert_eq!((0..10_000).map(|_| twister.draw()).last(), Some(4_123_659_995));
    }
}
