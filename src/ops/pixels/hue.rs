//! Turning hues by way of HSV in bytes, with the mixture of f32 and f64 that Pillow's Convert.c has.

use super::clip::byte_of_f64;
use super::planes::each_pixel;

/// Turns the hues of `[3, pixels]` by this share of the circle.
pub(super) fn turn(values_chw: &mut [u8], share: f64) {
    let shift = (share * 255.0) as i32 as u8;
    each_pixel(
        values_chw,
        #[inline(always)]
        |pixel| {
            let [hue, saturation, value] = hsv(pixel);
            rgb([hue.wrapping_add(shift), saturation, value])
        },
    );
}

/// Without branches: for gray, what the divisions give is thrown away.
#[inline(always)]
fn hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let most = red.max(green).max(blue);
    let spread = (most - red.min(green).min(blue)) as f32;
    let from_red = (most - red) as f32 / spread;
    let from_green = (most - green) as f32 / spread;
    let from_blue = (most - blue) as f32 / spread;
    let of_red = from_blue - from_green;
    let of_green = (2.0 + from_red as f64 - from_blue as f64) as f32;
    let of_blue = (4.0 + from_green as f64 - from_red as f64) as f32;
    let of_others = if green == most { of_green } else { of_blue };
    let sixths = if red == most { of_red } else { of_others };
    // Above 0 and below 2, so that the whole part is 0 or 1.
    let turns = sixths as f64 / 6.0 + 1.0;
    let hue = (if turns >= 1.0 { turns - 1.0 } else { turns }) as f32;
    let (hue, saturation) = (
        byte_of_f64(hue as f64 * 255.0),
        byte_of_f64((spread / most as f32) as f64 * 255.0),
    );
    let colourful = spread != 0.0;
    [
        if colourful { hue } else { 0 },
        if colourful { saturation } else { 0 },
        most,
    ]
}

#[inline(always)]
fn rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    let turns = hue as f64 * 6.0 / 255.0;
    let sector = byte_of_f64(turns);
    let within = (turns - sector as f64) as f32;
    let saturation = (saturation as f64 / 255.0) as f32;
    // Half up: they are from 0 on.
    let low = byte_of_f64((value as f64 * (1.0 - saturation as f64)).round());
    let falling = byte_of_f64((value as f64 * (1.0 - (saturation * within) as f64)).round());
    let rising = byte_of_f64((value as f64 * (1.0 - saturation as f64 * (1.0 - within as f64))).round());
    // Red, from sector to sector: value, falling, low, low, rising, value; the others are a third and two thirds behind.
    let [red, green, blue] = [sector, sector + 4, sector + 2];
    [red, green, blue].map(
        #[inline(always)]
        |sector| {
            let sector = if sector >= 6 { sector - 6 } else { sector };
            let low_or_value = if sector == 2 || sector == 3 { low } else { value };
            let rising_or_other = if sector == 4 { rising } else { low_or_value };
            if sector == 1 { falling } else { rising_or_other }
        },
    )
}
