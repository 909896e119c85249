// An imagewatch policy inside a Node control plane. To be copied: it needs nothing but the package `@extism/extism`.
//
// The policy decides; this file lets it ask, and nothing more. What it may reach, and how, is in the `effects` that a
// control plane hands to each call. Shapes: the JSON Schemas in `plugin/abi/schema`. Tested by `play.mjs`.

import { createHash } from 'node:crypto';
import createPlugin from '@extism/extism';

/** What an effect throws when it cannot do what was asked: the policy reads it as data and goes on. */
export class Refused extends Error {
  constructor(code, message, retryable = false) {
    super(message);
    this.failure = { code, message, retryable };
  }
}

/** The policy trapped, was ended, or returned nonsense. Its state is the one from before the call. */
export class PolicyFault extends Error {}

// The host functions. Each takes JSON and answers {"ok": ...} or {"err": {"code", "message", "retryable"}}. None of
// them throws: that would kill the policy's call. The effects may be async, as the policy runs in a worker.
function hostFunctions(effects, log) {
  const answers = (name) => async (context, offset) => {
    let said;
    try {
      said = { ok: await effects[name](context.read(offset).json()) };
    } catch (error) {
      if (error instanceof Refused) {
        said = { err: error.failure };
      } else {
        log.error(`the host's ${name} failed`, error); // its text may hold a secret: the policy gets the kind only
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
        log.error('a line of the policy could not be logged', error);
      }
    },
  };
}

/** A policy compiled once. Every call gets a fresh instance of it, and state goes in and out by value. */
export class Policy {
  /** `config` is the manifest's map of strings; `timeoutMs` bounds a call, its host functions included. */
  static async load(wasm, config, { sha256, timeoutMs = 120_000, log = console } = {}) {
    const found = createHash('sha256').update(wasm).digest('hex');
    if (sha256 !== undefined && sha256 !== found) {
      throw new Error(`the policy's sha256 is ${found}, not ${sha256}`);
    }
    const policy = new Policy();
    // An empty value is as good as none, and the SDK's 1.0.3 ends the call that reads one.
    const set = Object.fromEntries(Object.entries(config).filter(([, value]) => value !== ''));
    try {
      Object.assign(policy, { module: await WebAssembly.compile(wasm), config: set, timeoutMs, log });
      // Once here: a module that cannot be instantiated in the SDK's worker ends this whole process.
      await (await policy.instantiate({}, false)).close();
    } catch (error) {
      throw new PolicyFault(`it cannot be loaded: ${error.message}`, { cause: error });
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
      throw new PolicyFault(`${name} returned nonsense: ${error.message}`, { cause: error });
    }
  }

  /** The same over the text itself. */
  async callText(name, given, effects) {
    let instance;
    let timer;
    try {
      instance = await this.instantiate(effects, true);
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`not done in ${this.timeoutMs} ms`)), this.timeoutMs);
      });
      return (await Promise.race([instance.call(name, given), late])).text();
    } catch (error) {
      throw new PolicyFault(`${name}: ${error.message}`, { cause: error });
    } finally {
      clearTimeout(timer);
      await instance?.close(); // ends the worker, and with it a policy that does not come back
    }
  }
}
