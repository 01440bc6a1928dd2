# Completion for bash of tandem, the suite binaries and tandem-report: what their own --help says, so that it is never old.
#   source scripts/completions/tandem.bash
# For zsh: autoload -U +X compinit bashcompinit && compinit && bashcompinit, then the same line.

# Words that the help of "$@" lists: flags anywhere, commands in its list of them.
_tandem_flags() { "$@" --help 2>/dev/null | grep -oE '(^|[ ,])--[a-z0-9][a-z0-9_-]*' | tr -d ' ,' | sort -u; }
_tandem_commands() {
  "$1" --help 2>/dev/null | sed -n '/^[Ss][Uu][Bb][Cc][Oo][Mm][Mm]\|^commands:/,/^$/s/^ \{2,4\}\([a-z][a-z-]*\).*/\1/p'
  echo help
}

_tandem() {
  local program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} command=
  program=${program/#\~\//$HOME/}
  [ "$COMP_CWORD" -lt 2 ] || command=${COMP_WORDS[1]}
  case ${program##*/} in suite_*) command= ;; esac
  if [ "$COMP_CWORD" = 1 ] && [ "${word#-}" = "$word" ] || [ "$command" = help ]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_tandem_commands "$program")" -- "$word")
  elif [ "${word#-}" != "$word" ]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_tandem_flags "$program" ${command:+"$command"})" -- "$word")
  fi
  # Otherwise files, as -o default has it.
}

complete -o default -F _tandem tandem tandem-report suite_encoder suite_decoder suite_generate suite_kernels \
  suite_collectives suite_memory suite_limits
