// Each file runs in a process of its own. One after the other, since some use ports of the machine; test.sh runs the end-to-end files, which
// have namespaces of their own and wait as much as they work, as many at a time as there are processors (--fileParallelism).
//
// Deadlines are generous: a busy machine is no fault. What a test judges is never how long something took (docs/TESTING.md).
import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

const sideBySide = Math.max(2, availableParallelism());

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    fileParallelism: false,
    poolOptions: { forks: { minForks: sideBySide, maxForks: sideBySide } },
    expect: { poll: { timeout: 60_000 } },
    testTimeout: 180_000,
    hookTimeout: 180_000,
    teardownTimeout: 20_000,
  },
});
