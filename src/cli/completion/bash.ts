// The completion script of bash: one table made from the program, and one function that reads it. Who: `sluice completion bash`.
// It needs bash 4.3 and nothing else (bash-completion loads it, but is not needed). Names that come from the appliance are compared as
// text and quoted: `compgen -W` would expand them, and a rule may be called $(reboot).
import { flatten, shellQuote, type CommandModel, type ValueKind } from './model.js';

export function bashScript(program: CommandModel): string {
  return `# Completion of sluice for bash 4.3 and later. Made by \`sluice completion bash\`: change nothing here, make it again.
${TABLES}${flatten(program).map(tableOf).join('')}${FUNCTIONS}`;
}

const keyOf = (path: readonly string[]): string => path.join(' ');

function valueWord(value: ValueKind): string {
  switch (value.kind) {
    case 'words': return `words ${value.words.join(' ')}`;
    case 'names': return `names ${value.of}`;
    default: return value.kind;
  }
}

function tableOf(command: CommandModel): string {
  const key = keyOf(command.path);
  const entries: string[] = [];
  const set = (table: string, name: string, value: string): void => void entries.push(`${table}[${shellQuote(name)}]=${shellQuote(value)}\n`);
  set('_sluice_commands', key === '' ? '.' : key, command.commands.map((child) => child.path.at(-1)!).join(' '));
  set('_sluice_options', key === '' ? '.' : key, command.options.flatMap((option) => option.names).join(' '));
  for (const option of command.options) if (option.value) for (const name of option.names) set('_sluice_values', `${key} ${name}`, valueWord(option.value));
  command.arguments.forEach((argument, index) => set('_sluice_values', `${key} ${argument.repeats ? '*' : index}`, valueWord(argument.value)));
  return entries.join('');
}

const TABLES = `declare -gA _sluice_commands=() _sluice_options=() _sluice_values=()
declare -g _sluice_unquotable=\$'"\\'\$\\\\\`'
`;

const FUNCTIONS = `
# Adds what of $@ begins with the word at the cursor, quoted as the line needs it.
_sluice_offer() {
  local candidate text
  for candidate in "$@"; do
    [[ -n $candidate && $candidate == "$word"* ]] || continue
    if [[ -z $quote ]]; then printf -v text '%q' "$candidate"
    elif [[ $candidate == *[$_sluice_unquotable]* ]]; then continue # no plain way to write it between quotes
    else text=$candidate; fi
    COMPREPLY+=("\${text#"$kept"}")
  done
}

# Completes a value: none, file, directory, words ..., names KIND.
_sluice_value() {
  local -a names=()
  local name
  case $1 in
    file) compopt -o default ;; # bash's own way with files knows ~ and quoting
    directory) compopt -o dirnames ;;
    'words '*) read -ra names <<<"\${1#words }"; _sluice_offer "\${names[@]}" ;;
    'names '*)
      mapfile -t names < <("$program" completion-names "\${1#names }" "\${where[@]}" 2>/dev/null)
      _sluice_offer "\${names[@]}" ;;
  esac
}

_sluice() {
  COMPREPLY=()
  local -a words=() where=()
  local rest=\${COMP_LINE:0:COMP_POINT} part bare
  # Bash splits words at = and : too; blanks alone do here.
  for part in "\${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
    bare=\${rest#"\${rest%%[![:space:]]*}"}
    part=\${bare:0:\${#part}}
    if (( \${#words[@]} )) && [[ $bare == "$rest" ]]; then words[-1]+=$part; else words+=("$part"); fi
    rest=\${bare#"$part"}
  done
  local program=\${words[0]} word=\${words[-1]} path='' pending='' ended='' argument=0 index
  for ((index = 1; index < \${#words[@]} - 1; index++)); do
    part=\${words[index]}
    if [[ -n $pending ]]; then
      [[ $pending == --dir ]] && where=(--dir "$part")
      pending=
    elif [[ -z $ended && $part == -- ]]; then ended=1
    elif [[ -z $ended && $part == --dir=* ]]; then where=("$part")
    elif [[ -z $ended && $part == -* ]]; then
      [[ -n \${_sluice_values["$path $part"]-} ]] && pending=$part
    elif (( ! argument )) && [[ " \${_sluice_commands["\${path:-.}"]} " == *" $part "* ]]; then path=\${path:+$path }$part
    else argument=$((argument + 1)); fi
  done

  if [[ -z $pending && -z $ended && $word == --*=* ]]; then pending=\${word%%=*} word=\${word#*=}; fi
  local quote='' kept=''
  case $word in
    \\"*|\\'*) quote=\${word:0:1} word=\${word:1} ;;
    *) word=\${word//\\\\/} ;;
  esac
  # Bash replaces what follows the last : only.
  if [[ -z $quote && $word == *:* && $COMP_WORDBREAKS == *:* ]]; then printf -v kept '%q' "\${word%:*}:"; fi

  if [[ -n $pending ]]; then _sluice_value "\${_sluice_values["$path $pending"]-none}"
  elif [[ -z $ended && $word == -* ]]; then
    read -ra words <<<"\${_sluice_options["\${path:-.}"]}"
    _sluice_offer "\${words[@]}"
  elif (( ! argument )) && [[ $path == *help || -n \${_sluice_commands["\${path:-.}"]} ]]; then
    part=\${path%help} part=\${part% }
    part=\${part:-.} # after help: the commands that it explains
    read -ra words <<<"\${_sluice_commands["$part"]}"
    _sluice_offer "\${words[@]}"
  else
    part=\${_sluice_values["$path $argument"]-\${_sluice_values["$path *"]-none}}
    _sluice_value "$part"
  fi
}

complete -F _sluice sluice
`;
