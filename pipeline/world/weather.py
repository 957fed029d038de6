"""The sample world's five skies and what is between the street and the picture: light, wet road, rain, lens, sensor.

Everything here follows from the scene: its lamps, its depth, its road. None of it is one of the corruptions that
students train on.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numba import njit

from pipeline.world.light import Light
from pipeline.world.raster import Camera
from pipeline.world.scene import Scene

DOMAINS = ("daytime_clear", "night_sunny", "dusk_rainy", "night_rainy", "daytime_foggy")


@dataclass(frozen=True)
class Weather:
    """What one picture's domain decides, drawn once per picture."""

    domain: str
    night: bool
    rain: float  # 0 dry .. 1 pouring
    lamp_colour: tuple[float, float, float]
    lamp_power: float
    glow: float  # of vehicles' lamps
    beams: bool
    umbrellas: float  # share of people
    exposure: float
    grain: float  # sensor noise: standard deviation at full gain, in linear light


def draw_weather(domain: str, rng: np.random.Generator) -> Weather:
    if domain not in DOMAINS:
        raise ValueError(f"domain: got {domain!r}, allowed are {', '.join(DOMAINS)}")
    sodium, white = (1.0, 0.62, 0.27), (0.95, 0.92, 0.85)
    lamp_colour = sodium if rng.random() < 0.65 else white
    night = domain.startswith("night")
    rain = rng.uniform(0.4, 1.0) if domain.endswith("rainy") else 0.0
    lamp_power, glow, exposure, grain = {
        "daytime_clear": (0.0, 0.04, rng.uniform(1.0, 1.45), 0.004),
        "night_sunny": (rng.uniform(2.0, 4.0), 1.0, rng.uniform(1.1, 1.8), 0.012),
        "dusk_rainy": (0.35, 0.6, rng.uniform(0.9, 1.2), 0.010),
        "night_rainy": (rng.uniform(1.8, 3.4), 1.0, rng.uniform(1.1, 1.8), 0.018),
        "daytime_foggy": (0.0, 0.25, rng.uniform(0.9, 1.1), 0.005),
    }[domain]
    return Weather(
        domain=domain,
        night=night,
        rain=rain,
        lamp_colour=lamp_colour,
        lamp_power=lamp_power,
        glow=glow,
        beams=night or rain > 0,
        umbrellas=0.45 if rain else 0.0,
        exposure=exposure,
        grain=grain,
    )


def direction(azimuth: float, elevation: float) -> np.ndarray:
    return np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])


def make_light(weather: Weather, scene: Scene, rng: np.random.Generator) -> tuple[Light, np.ndarray, float]:
    """The light of the picture, its lamps (N, 11), and how soft shadows on the ground are (in cells of its map)."""
    makers = {
        "daytime_clear": clear_day,
        "night_sunny": night,
        "dusk_rainy": dusk,
        "night_rainy": night,
        "daytime_foggy": foggy_day,
    }
    values, headlights, blur = makers[weather.domain](weather, rng)
    numbers: dict[str, Any] = {
        name: tuple(v.tolist()) if isinstance(v, np.ndarray) else float(v) for name, v in values.items()
    }
    lamps = []
    if headlights > 0:
        # The street lamps and beams nearest to us, and our own head lights.
        lamps = sorted(scene.lamps, key=lambda lamp: lamp[2])
        lamps = [lamp for lamp in lamps if lamp[9] < 0.5][:8] + [lamp for lamp in lamps if lamp[9] >= 0.5][:5]
        ahead = scene.camera.axes_33[2] * (1, 0, 1) - np.array([0, 0.035, 0])
        ahead /= np.linalg.norm(ahead)
        own = np.array((1.0, 0.95, 0.8)) * headlights
        lamps.append((scene.camera.position_3[0], 0.75, 0.8, *ahead, *own, 0.91, 60.0))
    return Light(**numbers), np.array(lamps, np.float64).reshape(-1, 11), blur


def tinted(rng: np.random.Generator, *values: float, spread: float = 0.08) -> np.ndarray:
    """A colour, a little brighter or darker, a little off in hue."""
    return np.array(values) * (1 + spread * rng.uniform(-1, 1)) * (1 + 0.3 * spread * rng.uniform(-1, 1, 3))


def clear_day(weather: Weather, rng: np.random.Generator) -> tuple[dict, float, float]:
    overcast = rng.random() < 0.2
    values = {
        "sun_direction": direction(rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(28, 65))),
        "sun": tinted(rng, 1.0, 0.93, 0.80) * (0.25 if overcast else rng.uniform(1.5, 2.4)),
        "ambient_sky": tinted(rng, 0.62, 0.74, 0.95) * (1.2 if overcast else 0.75),
        "ambient_ground": tinted(rng, 0.34, 0.32, 0.29),
        "zenith": tinted(rng, 0.55, 0.60, 0.66) if overcast else tinted(rng, 0.10, 0.26, 0.72),
        "horizon": tinted(rng, 0.62, 0.76, 0.92),
        "cloud": tinted(rng, 1.15, 1.13, 1.1),
        "airlight": tinted(rng, 0.62, 0.72, 0.85),
        "cloud_cover": 0.95 if overcast else rng.uniform(0.15, 0.75),
        "cloud_seed": rng.uniform(0, 400),
        "extinction": rng.uniform(0.0004, 0.0012),
        "lit_windows": 0.0,
        "lights_on": 1.0,
        "wetness": 0.0,
    }
    return values, 0.0, 6.0 if overcast else 1.2


def foggy_day(weather: Weather, rng: np.random.Generator) -> tuple[dict, float, float]:
    air = tinted(rng, 0.66, 0.69, 0.72, spread=0.12)
    visibility = float(np.exp(rng.uniform(np.log(45), np.log(140))))  # metres at which 5 % contrast is left
    values = {
        "sun_direction": direction(rng.uniform(-np.pi, np.pi), 1.0),
        "sun": np.zeros(3),
        "ambient_sky": air * 0.95,
        "ambient_ground": air * 0.5,
        "zenith": air,
        "horizon": air,
        "cloud": air,
        "airlight": air,
        "cloud_cover": 0.0,
        "cloud_seed": 0.0,
        "extinction": -np.log(0.05) / visibility,
        "lit_windows": 0.1,
        "lights_on": 1.0,
        "wetness": 0.15,
    }
    return values, 0.0, 9.0


def dusk(weather: Weather, rng: np.random.Generator) -> tuple[dict, float, float]:
    """The last daylight: a violet-blue sky over a warm horizon."""
    level = rng.uniform(0.19, 0.40)
    sky = tinted(rng, 0.42, 0.50, 0.86) * level
    values = {
        "sun_direction": direction(rng.uniform(-0.8, 0.8), 0.12),
        "sun": tinted(rng, 0.10, 0.055, 0.03) * level,
        "ambient_sky": sky,
        "ambient_ground": sky * 0.45,
        "zenith": tinted(rng, 0.32, 0.40, 0.66) * level,
        "horizon": tinted(rng, 0.82, 0.62, 0.55) * level,
        "cloud": tinted(rng, 0.30, 0.32, 0.45) * level,
        "airlight": tinted(rng, 0.58, 0.57, 0.68) * level,
        "cloud_cover": 0.85,
        "cloud_seed": rng.uniform(0, 400),
        "extinction": 0.006 + 0.012 * weather.rain,
        "lit_windows": 0.28,
        "lights_on": 0.75,
        "wetness": 0.9,
    }
    return values, 0.8, 9.0


def night(weather: Weather, rng: np.random.Generator) -> tuple[dict, float, float]:
    """A dark sky, the glow of the town in the air."""
    level = rng.uniform(0.03, 0.07)
    sky = tinted(rng, 0.55, 0.66, 1.0) * level
    glow = np.array(weather.lamp_colour) * rng.uniform(0.008, 0.03)
    values = {
        "sun_direction": direction(rng.uniform(-np.pi, np.pi), 0.7),
        "sun": np.zeros(3),
        "ambient_sky": sky,
        "ambient_ground": sky * 0.6,
        "zenith": tinted(rng, 0.10, 0.14, 0.30) * level * 1.5,
        "horizon": glow + sky * 0.5,
        "cloud": glow * 0.8,
        "airlight": glow * 1.5 + sky * 0.3,
        "cloud_cover": 0.9 if weather.rain else 0.5,
        "cloud_seed": rng.uniform(0, 400),
        "extinction": 0.0015 + 0.013 * weather.rain,
        "lit_windows": rng.uniform(0.2, 0.45),
        "lights_on": 1.0,
        "wetness": 0.95 if weather.rain else 0.0,
    }
    return values, 3.4, 9.0


@njit(cache=True)
def mirror_road(image, depth, ground, camera, noise, strength):
    """Add what a wet road mirrors.

    The mirrored ray of a road pixel stays in one plane with the vertical. So on the picture it climbs its own column
    (for a level camera). Let k be the way gone as a share of the way from eye to road, and H the eye's height. The ray
    is at depth z (1 + k) and at row horizon + f H (1 - k) / (z (1 + k)). The water shows the first row whose surface is
    at that depth. A ray that meets nothing shows the sky.
    """
    height, width = depth.shape
    forward_up = camera.axes_33[2, 1]
    horizon = camera.centre_y + camera.focal * forward_up / np.sqrt(1 - forward_up**2)
    eye = camera.position_3[1]
    mirrored = np.zeros_like(image)
    for row in range(height):
        below = row + 0.5 - horizon
        if below < 1:
            continue
        for column in range(0, width, 2):  # two columns at a time: water is rough
            if ground[row, column] < 0.2:
                continue
            z = depth[row, column]
            px = camera.position_3[0] + (column - camera.centre_x) / camera.focal * z
            ripple = noise[int(11 * z) % 512, int(11 * px + 4000) % 512] - 0.5
            pool = noise[int(1.3 * z) % 512, int(2.1 * px + 900) % 512]
            wet = min(max((pool - 0.25) * 2.2, 0.18), 1.0)
            grazing = 0.10 + 0.75 * (1 - min(eye / (z + 0.1) * 1.8, 1.0)) ** 2
            found, hit = max(int(2 * horizon - row), 0), False
            target = row - 1
            while target >= 0:
                ratio = (target + 0.5 - horizon) / below  # (1 - k) / (1 + k)
                if ratio <= -0.999:
                    break
                ray_depth = z * 2 / (1 + ratio)  # z (1 + k)
                there = depth[target, column]
                if ground[target, column] < 0.2 and 0.8 * ray_depth < there < 1.03 * ray_depth:
                    found, hit = target, True
                    break
                target -= 1 if below < 40 or row - target < 12 else 2
            if not hit and 0 < depth[found, column] < 150:
                continue  # something near stands before the sky that the water sees
            found = max(found + int(ripple * 9), 0)
            source = column + int(ripple * 3)
            if found >= height or source < 0 or source >= width:
                continue
            amount = strength * wet * grazing * ground[row, column]
            for k in range(3):
                value = amount * min(image[found, source, k], 6.0)
                mirrored[row, column, k] = value
                if column + 1 < width:
                    mirrored[row, column + 1, k] = value
    return mirrored


def add_wet_road(image, depth, ground, camera: Camera, noise, strength: float) -> np.ndarray:
    mirrored = mirror_road(image, depth, ground, camera, noise, strength)
    # Rough water smears a mirror image along the line of sight: lamps become columns.
    tall = cv2.blur(mirrored, (1, max(3, camera.height // 26)))
    taller = cv2.blur(tall, (3, max(5, camera.height // 9)))
    return cover_road(image, ground, mirrored, tall, taller)


@njit(cache=True)
def cover_road(image, ground, mirrored, tall, taller):
    """The road under its sheet of water, a little darker, and what the water shows."""
    covered = image.copy()
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if ground[row, column] > 0.2:
                for k in range(3):
                    shown = 0.45 * mirrored[row, column, k] + 0.5 * tall[row, column, k] + 0.55 * taller[row, column, k]
                    covered[row, column, k] = 0.9 * image[row, column, k] + shown
    return covered


def add_glare(image: np.ndarray, strength: float, haze: float) -> np.ndarray:
    """Light that the lens and wet air spread around lamps: wide tails of what is brighter than white."""
    height, width = image.shape[:2]
    small = cv2.resize(
        np.minimum(np.maximum(image - 0.9, 0), 40),
        (max(width // 4, 1), max(height // 4, 1)),
        interpolation=cv2.INTER_AREA,
    )
    size = max(height, width) / 640
    narrow = cv2.GaussianBlur(small, (0, 0), max(0.8 * size, 0.3))
    middle = cv2.GaussianBlur(small, (0, 0), max(3.0 * size, 0.3))
    wide = cv2.GaussianBlur(small, (0, 0), max(10.0 * size, 0.3))
    spread = strength * (0.25 * narrow + 0.28 * middle) + haze * 0.9 * wide
    return image + cv2.resize(spread, (width, height), interpolation=cv2.INTER_LINEAR)


def add_streaks(image: np.ndarray, rain: float, brightness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Falling drops drawn out by the exposure: thin bright lines, longer and fewer when near, lit by what is around."""
    height, width = image.shape[:2]
    scale = max(height, width) / 640
    slant = rng.normal(0, 0.12)
    mask = np.zeros((height, width), np.uint8)
    for length, count, tone, thickness in ((9, 420, 60, 1), (20, 170, 80, 1), (46, 36, 90, 2)):
        number = int(count * rain * height * width / (640 * 360))
        x, y = rng.uniform(-20, width + 20, number), rng.uniform(-40, height, number)
        spread = length * scale * rng.uniform(0.6, 1.4, number)
        ends = np.stack([x, y, x + slant * spread + rng.normal(0, 0.6, number), y + spread], axis=1)
        layer = np.zeros_like(mask)
        lines = np.round(ends * 16).astype(np.int32).reshape(-1, 2, 2)
        cv2.polylines(layer, list(lines), False, tone, max(1, round(thickness * scale)), cv2.LINE_AA, 4)
        np.maximum(mask, layer, out=mask)
    alpha = (cv2.GaussianBlur(mask, (0, 0), 0.6).astype(np.float32) / 255)[..., None]
    small = cv2.resize(image, (max(width // 8, 1), max(height // 8, 1)), interpolation=cv2.INTER_AREA)
    around: np.ndarray = cv2.resize(cv2.blur(small, (7, 7)), (width, height), interpolation=cv2.INTER_LINEAR)
    around *= 1.5
    around += brightness.astype(np.float32)
    around -= image
    around *= alpha
    around += image
    return around


def add_drops_on_lens(image: np.ndarray, rain: float, rng: np.random.Generator) -> None:
    """Drops on the glass before the lens, drawn into `image`: each shows the scene turned over, small and blurred."""
    height, width = image.shape[:2]
    scale = max(height, width) / 640
    seen = image.copy()
    for _ in range(int(rng.poisson(16 * rain))):
        radius = scale * float(rng.gamma(3.0, 3.2)) + 2.5
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        stretch, bend = rng.uniform(1.0, 1.5), radius * rng.uniform(2.0, 4.5)
        x0, x1 = int(max(cx - radius - 2, 0)), int(min(cx + radius + 3, width))
        y0, y1 = int(max(cy - radius * stretch - 2, 0)), int(min(cy + radius * stretch + 3, height))
        yy, xx = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        dx, dy = (xx - np.float32(cx)) / np.float32(radius), (yy - np.float32(cy)) / np.float32(radius * stretch)
        alpha = np.clip((1 - dx * dx - dy * dy) * 2.5, 0, 0.9)[..., None]
        map_x, map_y = np.float32(cx) - dx * np.float32(bend), np.float32(cy) - dy * np.float32(bend)
        bent = cv2.remap(seen, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        bent = cv2.GaussianBlur(bent, (0, 0), 1.1 * scale).reshape(*alpha.shape[:2], 3)
        patch = image[y0:y1, x0:x1]
        patch += alpha * (1.05 * bent - patch)


def film_curve() -> np.ndarray:
    """8-bit values for linear light x, in steps of sqrt(x / 4): a film-like shoulder, then sRGB's rough gamma of 2.2.

    The shoulder is Narkowicz's fit of ACES: f(x) = x (2.51 x + 0.03) / (x (2.43 x + 0.59) + 0.14).
    """
    x = 4 * np.linspace(0, 1, 4096) ** 2
    return np.round(255 * np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1) ** (1 / 2.2)).astype(
        np.uint8
    )


FILM = film_curve()


@njit(cache=True)
def develop(image, noise, gain, grain, film):
    """Shot and read noise on linear light, then the film curve."""
    picture = np.empty(image.shape, np.uint8)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            for k in range(3):
                x = max(image[row, column, k] * gain, 0.0)
                x += grain * np.sqrt(0.12 + min(x, 1.5)) * noise[row, column, k]
                x = min(max(x, 0.0), 4.0)
                picture[row, column, k] = film[int(np.sqrt(x / 4.0) * 4095 + 0.5)]
    return picture


def expose(image: np.ndarray, weather: Weather, rng: np.random.Generator) -> np.ndarray:
    """Linear light to an 8-bit picture."""
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    if weather.night:  # demosaicing and the camera's denoising make noise coarser
        noise = 0.6 * noise + 1.3 * cv2.GaussianBlur(noise, (0, 0), 0.8)
    return develop(image, noise, weather.exposure * 0.6, weather.grain, FILM)


def through_weather(
    image, depth, ground, scene: Scene, weather: Weather, light: Light, noise, rng: np.random.Generator
) -> np.ndarray:
    """The lit street as the camera records it: (H, W, 3) uint8 RGB."""
    if weather.rain:
        image = add_wet_road(image, depth, ground, scene.camera, noise, 0.75 if weather.night else 0.62)
    if weather.night:
        image = add_glare(image, 1.0 if not weather.rain else 1.3, 0.5 if not weather.rain else 1.0)
    elif weather.rain:
        image = add_glare(image, 0.6, 0.5)
    else:
        image = add_glare(image, 0.12, 0.1)
    if weather.rain:
        image = add_streaks(image, weather.rain, np.array(light.airlight) * 0.8, rng)
        keep = 0.8  # rain pales colours
        image = cv2.transform(image, np.eye(3) * keep + (1 - keep) / 3)
        add_drops_on_lens(image, weather.rain, rng)
    return expose(image, weather, rng)
