// `sluice rules`: each rule in its order, and how many sessions met it. Who: src/cli/program.ts.
import type { Command } from 'commander';
import { addCommon, clientOf, type CommonOptions } from '../options.js';
import { formatTable, print, printJson } from '../output.js';

interface RuleView { kind: string; name: string; action: string; sessions: number | null }  // null: the engine does not count this kind

export function addRulesCommand(program: Command): void {
  addCommon(program.command('rules').description('firewall and NAT rules in their order, with the sessions each has met'))
    .action((options: CommonOptions) => showRules(options));
}

async function showRules(options: CommonOptions): Promise<void> {
  const client = clientOf(options);
  const answer = await client.get<{ rules: RuleView[] }>('/api/v1/rules');
  if (options.json) return printJson(answer);
  if (answer.rules.length === 0) return print('There are no rules: the default decides.');
  print(formatTable([
    { title: 'SESSIONS', of: (rule) => rule.sessions, right: true },
    { title: 'KIND', of: (rule) => rule.kind },
    { title: 'RULE', of: (rule) => rule.name },
    { title: 'ACTION', of: (rule) => rule.action },
  ], answer.rules));
}
