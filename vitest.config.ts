// Tests run in processes of their own. Files run one after another: the end-to-end tests measure and load the machine,
// and on two processors side by side they would only disturb each other.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    teardownTimeout: 20_000,
  },
});
