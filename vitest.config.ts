// Tests run in processes of their own, as many files at a time as there are processors: end-to-end tests wait as much as they work, and each
// has namespaces, directories and ports of its own. The long ones, which are among those, begin.
//
// Deadlines are generous: a busy machine is no fault. What a test judges is never how long something took (docs/TESTING.md).
import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

class LongOnesFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = ({ moduleId }: TestSpecification): boolean => moduleId.includes('/test/netns/');
    const sorted = await super.sort(files);
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))];
  }
}

const sideBySide = Math.max(2, availableParallelism());

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    poolOptions: { forks: { minForks: sideBySide, maxForks: sideBySide } },
    sequence: { sequencer: LongOnesFirst },
    expect: { poll: { timeout: 60_000 } },
    testTimeout: 180_000,
    hookTimeout: 180_000,
    teardownTimeout: 20_000,
  },
});
