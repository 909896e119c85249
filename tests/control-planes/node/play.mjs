// Replays the scripted scenarios on a built policy with the npm package `@extism/extism`. `imagewatch_core::script`
// does the same natively and describes the format. With the default policy, imagewatch.wasm, this program also tests
// faults that scripts cannot cause.
//
//     node play.mjs OUTPUTS SCHEMAS (WASM SCRIPTS)...
//
// It writes every output to OUTPUTS/<name of WASM>.txt. The outputs of all hosts must be the same bytes. It also checks
// all data that crosses the boundary, in both directions, against the JSON Schemas in SCHEMAS.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import Ajv from 'ajv/dist/2020.js';
import { Policy, PolicyFault, Refused } from './imagewatch-policy.mjs';

/** A policy differs from its script. */
class Departure extends Error {}

// (module (memory (export "memory") 1) (func (export "poll") (result i32) unreachable))
const POLICY = '0061736d010000000105016000017f030201000503010001071102066d656d6f7279020004706f6c6c0000';
const TRAPS = Buffer.from(`${POLICY}0a05010300000b`, 'hex');
// The same with the body (loop (br 0)) i32.const 0, and without a memory.
const ENDLESS = Buffer.from(`${POLICY}0a0b01090003400c000b41000b`, 'hex');
// Writes 0xff over the four bytes before alloc(16), where Extism stores the length, and passes the block to host_log.
const FORGED = Buffer.from(
  '0061736d0100000001130460017e017e60027e7f0060017e006000017f0250030f65787469736d3a686f73742f656e76' +
  '05616c6c6f6300000f65787469736d3a686f73742f656e760873746f72655f753800011065787469736d3a686f73742f' +
  '7573657208686f73745f6c6f670002030201030503010001071102066d656d6f7279020004706f6c6c00030a3a013801' +
  '017e421010002100200042017d41ff011001200042027d41ff011001200042037d41ff011001200042047d41ff011001' +
  '2000100241000b',
  'hex',
);
// The same, but passes the block to error_set and traps.
const FORGED_ERROR = Buffer.from(
  '0061736d0100000001130460017e017e60027e7f0060017e006000017f0250030f65787469736d3a686f73742f656e76' +
  '05616c6c6f6300000f65787469736d3a686f73742f656e760873746f72655f753800010f65787469736d3a686f73742f' +
  '656e76096572726f725f7365740002030201030503010001071102066d656d6f7279020004706f6c6c00030a39013701' +
  '017e421010002100200042017d41ff011001200042027d41ff011001200042037d41ff011001200042047d41ff011001' +
  '20001002000b',
  'hex',
);
// Calls output_set(alloc(10), -1).
const ENDLESS_OUTPUT = Buffer.from(
  '0061736d01000000010f0360017e017e60027e7e006000017f0236020f65787469736d3a686f73742f656e7605616c6c' +
  '6f6300000f65787469736d3a686f73742f656e760a6f75747075745f7365740001030201020503010001071102066d65' +
  '6d6f7279020004706f6c6c00020a0e010c00420a1000427f100141000b',
  'hex',
);
const NO_MEMORY = Buffer.from('0061736d010000000105016000017f0302010007080104706f6c6c00000a05010300000b', 'hex');
// With (import "env" "open" (func)).
const FOREIGN = Buffer.from(
  '0061736d010000000108026000006000017f020c0103656e76046f70656e000003020101' +
    '0503010001071102066d656d6f7279020004706f6c6c00010a0601040041000b',
  'hex',
);

/** The schemas by file name: `poll.in`, `http_send.out`, … */
class Schemas {
  constructor(folder) {
    const ajv = new Ajv({ strict: false, validateFormats: false });
    const files = readdirSync(folder).filter((file) => file.endsWith('.json'));
    const compile = (file) => ajv.compile(JSON.parse(readFileSync(join(folder, file), 'utf8')));
    this.validators = new Map(files.map((file) => [file.replace(/\.json$/, ''), compile(file)]));
  }

  check(name, value) {
    const validate = this.validators.get(name);
    if (validate === undefined) throw new Departure(`schema ${name} does not exist`);
    if (!validate(value)) {
      const [error] = validate.errors;
      throw new Departure(`does not match schema ${name}: ${error.instancePath} ${error.message} in ${JSON.stringify(value)}`);
    }
  }
}

/** The effects of one step. They answer from the script and record every difference. */
class ScriptedEffects {
  constructor(step, schemas) {
    this.expected = [...(step.host ?? [])];
    this.schemas = schemas;
    this.logged = [];
    this.departures = [];
    for (const name of ['http_send', 'docker_containers', 'docker_refresh']) {
      this[name] = (asked) => this.answer(name, asked);
    }
  }

  log(line) {
    this.check('host_log.in', line);
    this.logged.push(line.message);
  }

  async answer(name, asked) {
    this.check(`${name}.in`, asked);
    const exchange = this.expected.shift() ?? { function: 'nothing' };
    if (exchange.function !== name) {
      return this.depart(`${name} called instead of ${exchange.function}, with ${JSON.stringify(asked)}`);
    }
    const difference = findDifference(asked, exchange.in);
    if (difference !== null) return this.depart(`${name} called with another input: ${difference}`);
    this.check(`${name}.out`, exchange.out);
    const { ok, err } = exchange.out;
    if (err !== undefined) throw new Refused(err.code, err.message, err.retryable);
    return ok;
  }

  check(schema, value) {
    try {
      this.schemas.check(schema, value);
    } catch (error) {
      this.departures.push(error.message);
    }
  }

  depart(departure) {
    this.departures.push(departure);
    throw new Refused('other', 'not in the script');
  }

  finish(step, output) {
    this.check(`${step.call}.out`, output);
    const difference = findDifference(output, step.output);
    if (difference !== null) this.departures.push(`output differs: ${difference}\nin ${JSON.stringify(output)}`);
    this.departures.push(...this.expected.map((exchange) => `${exchange.function} was not called`));
    let from = 0;
    for (const part of step.log ?? []) {
      const at = this.logged.slice(from).findIndex((line) => line.includes(part));
      if (at < 0) this.departures.push(`no log line with ${part} in ${JSON.stringify(this.logged)}`);
      else from += at + 1;
    }
    if (this.departures.length > 0) throw new Departure(this.departures.join('\n'));
  }
}

/** Where `actual` differs from `expected`, or null. `actual` must have every key of an expected object, exactly the
 * elements of an expected list, and the part of an expected text between asterisks. Other values must be equal. */
function findDifference(actual, expected) {
  const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
  const areLists = Array.isArray(actual) && Array.isArray(expected) && actual.length === expected.length;
  if (areLists || (isObject(actual) && isObject(expected))) {
    for (const [key, value] of Object.entries(expected)) {
      const found = findDifference(actual[key] ?? null, value);
      if (found !== null) return `${key}.${found}`;
    }
    return null;
  }
  if (typeof actual === 'string' && typeof expected === 'string' && /^\*.*\*$/s.test(expected)) {
    const part = expected.slice(1, -1);
    return actual.includes(part) ? null : ` ${JSON.stringify(actual)} has no ${JSON.stringify(part)}`;
  }
  return Object.is(actual, expected) ? null : ` ${JSON.stringify(actual)} instead of ${JSON.stringify(expected)}`;
}

function parseScript(text) {
  return JSON.parse(text.replace(/\{\{([0-9a-f])\}\}/g, (_, letter) => `sha256:${letter.repeat(64)}`));
}

/** Replays a script and returns the outputs of its steps. */
async function play(wasm, script, schemas) {
  const policy = await Policy.load(wasm, script.config);
  let kept = { state: null, cache: null, quarantine: [] };
  const carry = (from) => Object.fromEntries(Object.entries(kept).map(([key, old]) => [key, key in from ? from[key] : old]));
  schemas.check('describe.out', await policy.call('describe', {}, new Silent()));
  const outputs = [];
  for (const step of script.steps) {
    kept = carry(step.input);
    const input = { ...step.input, ...kept };
    const effects = new ScriptedEffects(step, schemas);
    try {
      if (step.call !== 'describe') schemas.check(`${step.call}.in`, input); // describe has no input
      outputs.push(await policy.callText(step.call, JSON.stringify(input), effects));
      const output = JSON.parse(outputs.at(-1));
      effects.finish(step, output);
      kept = carry(output);
    } catch (error) {
      if (!(error instanceof Departure || error instanceof PolicyFault)) throw error;
      throw new Departure(`step ${JSON.stringify(step.name)}: ${error.message}`);
    }
  }
  return outputs;
}

/** Replays every script of a folder. Prints and counts each script that fails. */
async function playAll(wasm, folder, results, schemas) {
  let failed = 0;
  let lines = '';
  const files = readdirSync(folder).filter((file) => file.endsWith('.json')).sort();
  for (const file of files) {
    const script = parseScript(readFileSync(join(folder, file), 'utf8'));
    try {
      const outputs = await play(wasm, script, schemas);
      lines += outputs.map((output, index) => `${basename(file, '.json')} ${index} ${output}\n`).join('');
    } catch (error) {
      if (!(error instanceof Departure)) throw error;
      failed += 1;
      console.log(`FAILED ${file}: ${script.shows}\n${error.message}`);
    }
  }
  writeFileSync(results, lines);
  return [files.length - failed, failed];
}

/** Effects with a bug. Their exception contains a secret. */
class Broken {
  http_send() {
    throw new RangeError('hunter2');
  }
  log() {
    throw new RangeError('hunter2');
  }
}

class Silent extends Broken {
  log() {}
}

const CONFIG = { images: 'r.io/a' };
const faultOf = async (work) => {
  const fault = await work().then(() => null, (error) => error);
  assert.ok(fault instanceof PolicyFault, `${fault}`);
  return fault.message;
};

async function checkInvalidInput(wasm) {
  const policy = await Policy.load(wasm, CONFIG);
  const fault = await faultOf(() => policy.callText('poll', 'no json', new Silent()));
  assert.match(fault, /invalid input for poll/);
  // A fault affects only its own call.
  assert.equal((await policy.call('describe', {}, new Silent())).enabled, true);
}

async function checkExceptionInAnEffect(wasm) {
  const lines = [];
  const log = { ...console, error: (...words) => lines.push(words.join(' ')) };
  for (const effects of [new Broken(), new Silent()]) {
    const output = await (await Policy.load(wasm, CONFIG, { log })).call('poll', { now_ms: 0 }, effects);
    const { reason } = output.outcomes[0];
    assert.match(reason, /the host's http_send failed with RangeError/);
    assert.doesNotMatch(reason, /hunter2/);
  }
  assert.ok(lines.some((line) => line.includes("the host's http_send failed") && line.includes('hunter2')), lines);
}

/** An answer that is larger than the buffer between a worker and its host. */
async function checkLargeAnswer(wasm) {
  const effects = new Silent();
  effects.http_send = async () => ({ responses: [{ ok: { status: 403, body: 'ä'.repeat(1 << 20) } }] });
  const output = await (await Policy.load(wasm, CONFIG)).call('poll', { now_ms: 0 }, effects);
  assert.match(output.outcomes[0].reason, /denied access/);
}

async function checkTrap() {
  const trapping = await Policy.load(TRAPS, {});
  assert.match(await faultOf(() => trapping.call('poll', { now_ms: 0 }, new Silent())), /poll: unreachable/);
  for (const wasm of [NO_MEMORY, FOREIGN, TRAPS.subarray(0, 20)]) {
    assert.match(await faultOf(() => Policy.load(wasm, {})), /cannot be loaded/);
  }
}

/** A policy that crashes a process with the native runtime causes a fault here. The next call works normally. */
async function checkForgedMemory(wasm) {
  for (const module of [FORGED, FORGED_ERROR, ENDLESS_OUTPUT]) {
    const policy = await Policy.load(module, {}, { log: { ...console, error: () => {} } });
    assert.match(await faultOf(() => policy.call('poll', { now_ms: 0 }, new Silent())), /poll/);
  }
  assert.equal((await (await Policy.load(wasm, CONFIG)).call('describe', {}, new Silent())).enabled, true);
}

async function checkEndlessLoop() {
  const endless = await Policy.load(ENDLESS, {}, { timeoutMs: 500 });
  assert.match(await faultOf(() => endless.call('poll', { now_ms: 0 }, new Silent())), /not complete in 500 ms/);
}

async function checkHash(wasm) {
  await assert.rejects(() => Policy.load(wasm, {}, { sha256: '00' }), /not 00/);
}

/** The replay itself: a script with a difference fails, and so do data that no schema allows. */
async function checkDeparture(wasm, scripts, schemas) {
  const text = readFileSync(join(scripts, 'seed-move-commit.json'), 'utf8');
  for (const [old, other] of [['"seeded"', '"moved"'], ['"HEAD"', '"GET"'], ['first seen', 'never said']]) {
    const script = parseScript(text.replace(old, other));
    await assert.rejects(() => play(wasm, script, schemas), Departure, `${other} in place of ${old}`);
  }
  assert.throws(() => schemas.check('poll.in', { now_ms: 'noon' }), /now_ms must be integer/);
}

/** Tests faults that scripts cannot cause, on the default policy. Returns the number of tests. A failure throws. */
async function checkFaults(wasm, scripts, schemas) {
  const checks = [checkInvalidInput, checkExceptionInAnEffect, checkLargeAnswer, checkTrap, checkForgedMemory];
  checks.push(checkEndlessLoop, checkHash, (policy) => checkDeparture(policy, scripts, schemas));
  for (const check of checks) await check(wasm);
  return checks.length;
}

async function main(results, schemaFolder, ...pairs) {
  mkdirSync(results, { recursive: true });
  const schemas = new Schemas(schemaFolder);
  let [passed, failed] = [0, 0];
  for (let i = 0; i < pairs.length; i += 2) {
    const name = basename(pairs[i], '.wasm');
    const [good, bad] = await playAll(readFileSync(pairs[i]), pairs[i + 1], join(results, `${name}.txt`), schemas);
    console.log(`${name}: ${good} scripts passed, ${bad} failed`);
    passed += good;
    failed += bad;
    if (name === 'imagewatch') passed += await checkFaults(readFileSync(pairs[i]), pairs[i + 1], schemas);
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed > 0 || passed === 0 ? 1 : 0;
}

process.exitCode = await main(...process.argv.slice(2));
