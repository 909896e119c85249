// Runs an imagewatch policy in a Node control plane. Copy this file; it needs only the package `@extism/extism`.
//
// The policy decides. This file only passes its calls to the host. The `effects` that a control plane gives to each
// call define what the policy can reach. The JSON Schemas in `plugin/abi/schema` define all data. `play.mjs` tests this
// file.

import { createHash } from 'node:crypto';
import createPlugin from '@extism/extism';

/** An effect throws this if it cannot carry out a call. The policy reads the failure as data and continues. */
export class Refused extends Error {
  constructor(code, message, retryable = false) {
    super(message);
    this.failure = { code, message, retryable };
  }
}

/** The policy trapped, exceeded a limit, or returned invalid output. Its state is the one from before the call. */
export class PolicyFault extends Error {}

// The host functions. Each takes JSON and returns {"ok": ...} or {"err": {"code", "message", "retryable"}}. No
// exception leaves them, because it would end the policy's call. Effects may be async, because the policy runs in a
// worker.
function hostFunctions(effects, log) {
  const answers = (name) => async (context, offset) => {
    let said;
    try {
      said = { ok: await effects[name](context.read(offset).json()) };
    } catch (error) {
      if (error instanceof Refused) {
        said = { err: error.failure };
      } else {
        log.error(`the host's ${name} failed`, error); // the text can contain a secret: the policy gets only the type
        const message = `the host's ${name} failed with ${error?.name}; its log says more`;
        said = { err: { code: 'other', message, retryable: true } };
      }
    }
    return context.store(JSON.stringify(said));
  };
  return {
    http_send: answers('http_send'),
    docker_containers: answers('docker_containers'),
    docker_refresh: answers('docker_refresh'),
    host_log: async (context, offset) => {
      try {
        await effects.log(context.read(offset).json());
      } catch (error) {
        log.error('failed to log a line of the policy', error);
      }
    },
  };
}

/** A policy that is compiled once. Every call gets a fresh instance. The caller passes the state in and out. */
export class Policy {
  /** `config` is the manifest's map of strings. `timeoutMs` limits a call, including its host functions. */
  static async load(wasm, config, { sha256, timeoutMs = 120_000, log = console } = {}) {
    const found = createHash('sha256').update(wasm).digest('hex');
    if (sha256 !== undefined && sha256 !== found) {
      throw new Error(`the policy's sha256 is ${found}, not ${sha256}`);
    }
    const policy = new Policy();
    // An empty value means the same as no value. SDK 1.0.3 aborts a call that reads an empty value.
    const set = Object.fromEntries(Object.entries(config).filter(([, value]) => value !== ''));
    try {
      Object.assign(policy, { module: await WebAssembly.compile(wasm), config: set, timeoutMs, log });
      // Instantiates once here: a module that fails to instantiate in the SDK's worker ends this whole process.
      await (await policy.instantiate({}, false)).close();
    } catch (error) {
      throw new PolicyFault(`the policy cannot be loaded: ${error.message}`, { cause: error });
    }
    return policy;
  }

  instantiate(effects, runInWorker) {
    const functions = { 'extism:host/user': hostFunctions(effects, this.log) };
    const options = { useWasi: true, runInWorker, config: this.config, functions, logger: this.log };
    return createPlugin({ wasm: [{ module: this.module }] }, options);
  }

  /** Calls `describe`, `poll`, `settle` or `refresh`. Throws a `PolicyFault`. */
  async call(name, given, effects) {
    const text = await this.callText(name, JSON.stringify(given), effects);
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new PolicyFault(`${name} returned invalid output: ${error.message}`, { cause: error });
    }
  }

  /** The same call with text as input and output. */
  async callText(name, given, effects) {
    let instance;
    let timer;
    try {
      instance = await this.instantiate(effects, true);
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`not complete in ${this.timeoutMs} ms`)), this.timeoutMs);
      });
      return (await Promise.race([instance.call(name, given), late])).text();
    } catch (error) {
      throw new PolicyFault(`${name}: ${error.message}`, { cause: error });
    } finally {
      clearTimeout(timer);
      await instance?.close(); // ends the worker, and with it a policy that does not return
    }
  }
}
