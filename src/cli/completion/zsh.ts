// The completion script of zsh: a function for each command, in the terms of zsh's own _arguments. Who: `sluice completion zsh`.
// It stands in a directory of $fpath as _sluice, or is sourced. Names that come from the appliance go through compadd as they are.
import { flatten, shellQuote, type ArgumentModel, type CommandModel, type OptionModel, type ValueKind } from './model.js';

export function zshScript(program: CommandModel): string {
  return `#compdef sluice
# Completion of sluice for zsh. Made by \`sluice completion zsh\`: change nothing here, make it again.
${NAMES}${flatten(program).map(functionOf).join('')}
if [[ $funcstack[1] == _sluice ]]; then _sluice "$@"; else compdef _sluice sluice; fi
`;
}

const nameOf = (path: readonly string[]): string => ['_sluice', ...path].join('_').replaceAll('-', '_');

/** Of _arguments' specifications: what has a meaning there is escaped. */
const escapeHelp = (text: string): string => text.replace(/[\\[\]:]/g, '\\$&');

function actionOf(value: ValueKind): string {
  switch (value.kind) {
    case 'file': return '_files';
    case 'directory': return '_files -/';
    case 'words': return `(${value.words.map((word) => word.replace(/[^\w.-]/g, '\\$&')).join(' ')})`;
    case 'names': return ` _sluice_names ${value.of}`; // the blank: called as it stands, without compadd's options
    case 'none': return '';
  }
}

function optionSpec({ names, help, value, repeats }: OptionModel): string[] {
  return names.map((name) => {
    const others = repeats ? '*' : `(${names.join(' ')})`;
    const takes = value === undefined ? '' : `:${escapeHelp(name.replace(/^-+/, ''))}:${actionOf(value)}`;
    return shellQuote(`${others}${name}${value !== undefined && name.startsWith('--') ? '=' : ''}[${escapeHelp(help)}]${takes}`);
  });
}

const argumentSpec = ({ name, value, repeats }: ArgumentModel, index: number): string => shellQuote(`${repeats ? '*' : index + 1}:${escapeHelp(name)}:${actionOf(value)}`);

function functionOf(command: CommandModel): string {
  const specs = command.options.flatMap(optionSpec);
  const isHelp = command.path.at(-1) === 'help';
  const choices = command.commands.map((child) => shellQuote(`${child.path.at(-1)!}:${escapeHelp(child.help)}`));
  if (isHelp) specs.push(`'1:command:${nameOf(command.path.slice(0, -1))}_commands'`);
  else if (choices.length === 0) specs.push(...command.arguments.map(argumentSpec));
  const lines = (items: readonly string[]): string => items.map((item) => ` \\\n    ${item}`).join('');
  if (choices.length === 0) return `\n${nameOf(command.path)}() {\n  _arguments -S${lines(specs)}\n}\n`;
  const list = `${nameOf(command.path)}_commands`;
  return `
${list}() {
  local -a commands=(${choices.map((choice) => `\n    ${choice}`).join('')}
  )
  _describe -t commands command commands
}

${nameOf(command.path)}() {
  local curcontext=$curcontext state line
  typeset -A opt_args
  _arguments -S -C${lines([...specs, `'1:command:${list}'`, '\'*:: :->rest\''])} && return
  [[ $state == rest ]] || return 1
  case $line[1] in${command.commands.map((child) => `\n    ${child.path.at(-1)!}) ${nameOf(child.path)} ;;`).join('')}
  esac
}
`;
}

const NAMES = `
# Names that the running appliance knows; nothing when none runs.
_sluice_names() {
  local -a names where
  local at=\${words[(I)--dir]}
  if (( at && at < CURRENT - 1 )); then where=(--dir "\${(Q)words[at + 1]}"); elif (( \${words[(I)--dir=*]} )); then where=("\${(Q)words[\${words[(I)--dir=*]}]}"); fi
  names=("\${(@f)$(_call_program names "\${(q)service}" completion-names "\${(q)1}" "\${(@q)where[@]}" 2>/dev/null)}")
  names=(\${names:#})
  _wanted names expl "\$1" compadd -a names
}
`;
