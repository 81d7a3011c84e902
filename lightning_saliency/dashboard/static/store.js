// What was loaded of the records, within a bound of bytes, and what is loaded next.

const MOST_BYTES = 256 * 2 ** 20;
const BYTES_OF_A_REQUEST = 2 ** 20;
const LOOKS_OF_A_REQUEST = 64;
const MOST_REQUESTS = 3;

/** The peaks of a method while they are on their way. */
export const COMING = {};

/** Return what loads records and keeps what was loaded.
 * @param {import("./source.js").Source} source
 * @param {() => void} onArrival Called after something has come.
 * @param {(words: string) => void} onFault Called with what a person reads.
 * @returns {object} */
export function createStore(source, onArrival, onFault) {
  const abouts = new Map();
  const images = new Map();
  const peaks = new Map();
  const cache = new Map(); // in the order of their last use
  const refused = new Map(); // why it was
  const underWay = new Set();
  let wanted = [];
  let view = null; // how they are shown
  let bytes = 0;

  const keyOf = (id, method, look) => `${id}\n${method}\n${look.key}\n${look.time}`;

  function maps(id, method, look) {
    const key = keyOf(id, method, look);
    const known = cache.get(key);
    if (!known) return undefined;
    cache.delete(key);
    cache.set(key, known);
    return known;
  }

  /** Load maps, one after the other, and make them ready to be shown.
   * @param {{id: string, method: string, look: object}[]} list What is wanted from now on, the most urgent first.
   * @param {{isSigned: boolean, side: number}} shown See `View`. */
  function want(list, shown) {
    [wanted, view] = [list, shown];
    while (underWay.size < MOST_REQUESTS && startNext());
  }

  function startNext() {
    const next = wanted.find(({ id, method, look }) => isMissing(keyOf(id, method, look)));
    if (!next) return false;
    const looks = neighborsOf(next).filter((look) => isMissing(keyOf(next.id, next.method, look)));
    load(next.id, next.method, looks);
    return true;
  }

  function isMissing(key) {
    return !cache.has(key) && !underWay.has(key) && !refused.has(key);
  }

  function neighborsOf({ id, method, look }) {
    const { looks } = abouts.get(id);
    const size = byteSize(look.methods[method].shapes);
    const count = Math.max(1, Math.min(LOOKS_OF_A_REQUEST, Math.floor(BYTES_OF_A_REQUEST / size)));
    const place = looks.indexOf(look);
    const begin = place - (place % count);
    return looks.slice(begin, begin + count).filter((other) => Object.hasOwn(other.methods, method));
  }

  async function load(id, method, looks) {
    const keys = looks.map((look) => keyOf(id, method, look));
    const { samples, methods } = abouts.get(id);
    const sizeOf = new Map(samples.map(({ position, size }) => [position, size]));
    const asked = looks.map(({ key, positions, methods: own }) => {
      return { key, shapes: own[method].shapes, sizes: positions.map((position) => sizeOf.get(position)) };
    });
    const isFine = methods.find(({ key }) => key === method).fine;
    for (const key of keys) underWay.add(key);
    try {
      const came = await source.maps(id, method, asked, { ...view, isFine });
      for (const [index, key] of keys.entries()) keep(key, came[index]);
    } catch (fault) {
      await refuse(id, method, looks, fault);
    }
    for (const key of keys) underWay.delete(key);
    onArrival();
    want(wanted, view);
  }

  /** One damaged look must not hide its neighbors: of several that are refused, each is asked for by itself. */
  async function refuse(id, method, looks, fault) {
    if (looks.length > 1) {
      for (const look of looks) await load(id, method, [look]);
      return;
    }
    refused.set(keyOf(id, method, looks[0]), fault.message);
  }

  function keep(key, value) {
    cache.set(key, value);
    bytes += value.byteLength;
    for (const [oldest, old] of cache) {
      if (bytes <= MOST_BYTES) break;
      cache.delete(oldest);
      bytes -= old.byteLength;
    }
  }

  async function loadAbout(id) {
    const about = await source.about(id);
    const before = abouts.get(id);
    const isSame =
      before && JSON.stringify([before.run, before.samples]) === JSON.stringify([about.run, about.samples]);
    if (!isSame) images.set(id, splitImages(await source.images(id), about.samples));
    abouts.set(id, about);
    for (const key of [...peaks.keys()].filter((key) => key.startsWith(`${id}\n`))) peaks.delete(key);
    refused.clear();
    onArrival();
    return about;
  }

  /** Return the peaks of all looks, `COMING` where they are asked for the first time. */
  function peaksOf(id, method) {
    const key = `${id}\n${method}`;
    if (!peaks.has(key)) {
      peaks.set(key, COMING);
      source.peaks(id, method).then(
        (came) => {
          peaks.set(key, came);
          onArrival();
        },
        (fault) => {
          peaks.set(key, {});
          onFault(fault.message);
        },
      );
    }
    return peaks.get(key);
  }

  return {
    source,
    has: (id, method, look) => cache.has(keyOf(id, method, look)),
    maps,
    want,
    loadAbout,
    peaksOf,
    refusal: (id, method, look) => refused.get(keyOf(id, method, look)),
    about: (id) => abouts.get(id),
    image: (id, position) => images.get(id)?.get(position),
    forget: (id) => abouts.delete(id),
    bytes: () => bytes,
  };
}

function byteSize(shapes) {
  return shapes.reduce((sum, shape) => sum + 8 + shape.reduce((count, length) => count * length, 1), 1);
}

function splitImages(bytes, samples) {
  let place = 0;
  const images = new Map();
  for (const { position, size, channels } of samples) {
    const count = size.reduce((product, length) => product * length, size.length === 2 ? 3 : channels);
    const pixels = bytes.subarray(place, place + count);
    if (pixels.length !== count) throw new Error("The images that came are shorter than the record says.");
    images.set(position, { pixels, size, channels, pictures: new Map() });
    place += count;
  }
  return images;
}
