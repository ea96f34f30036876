// In which ssh session was this command typed? Control wants to know, so that a change that would cut it off can be refused. Who: options.ts.
// sshd says it in SSH_CONNECTION; sudo takes that away, so the processes above are asked, as far as this user may. Bounds: PARENTS_MAX.
import { readFileSync } from 'node:fs';

const PARENTS_MAX = 32;
const FORM = /^\S{2,45} \d{1,5} \S{2,45} \d{1,5}$/;

export function sessionHeaders(environment: NodeJS.ProcessEnv = process.env, parent = process.ppid): Record<string, string> {
  const session = environment['SSH_CONNECTION'] ?? sessionAbove(parent);
  return session !== undefined && FORM.test(session) ? { 'sluice-session': session } : {};
}

function sessionAbove(parent: number): string | undefined {
  for (let pid = parent, left = PARENTS_MAX; pid > 1 && left > 0; left -= 1) {
    try {
      const found = readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').find((one) => one.startsWith('SSH_CONNECTION='));
      if (found !== undefined) return found.slice('SSH_CONNECTION='.length);
      // After the name in brackets, which may hold anything: state, then the parent.
      pid = Number(readFileSync(`/proc/${pid}/stat`, 'latin1').replace(/^.*\) /s, '').split(' ')[1]);
    } catch {
      return undefined;
    }
  }
  return undefined;
}
