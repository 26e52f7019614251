# Debian's package archive, for scripts that take packages out of it without installing them: sourced, with $folder set.
#
# Packages are believed if Debian's own keyring (debian-archive-keyring) vouches for them. The mirror is this machine's.
# All suites are looked at that may have something: Debian moves on, so nothing is pinned.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
apt=$folder/.apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
# Several test files may ask at the same time.
exec 9>"$folder/.lock"
flock 9
mirror=$(sed -n 's/^URIs: *//p; s/^deb  *\(\[[^]]*\] *\)\{0,1\}\(http[^ ]*\).*/\2/p' /etc/apt/sources.list \
  /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null | head -1)
for suite in bookworm bookworm-backports trixie trixie-backports sid experimental; do
  echo "deb [signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} $suite main"
done >"$apt/sources.list"
options=(-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$apt/lists"
  -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root)

# Name, version, size and suite of every image and source of a kernel, older ones that a suite still lists among
# them. Small packages only lead to others.
kernels_of() {
  awk -v suite="$1" '/^Package: /{p=$2} /^Version: /{v=$2} /^Size: /{s=$2}
    /^$/{if (s > 5000000 && p ~ /^linux-((image|binary)-(unsigned-)?[0-9].*-cloud-amd64(-unsigned)?|source-[0-9.]+)$/)
           print p, v, s, suite}'
}

# The lists of a day serve.
if [ -z "$(find "$apt/kernels" -mmin -1440 -size +0 2>/dev/null)" ]; then
  apt-get "${options[@]}" update >"$apt/log" 2>&1 || echo "${0##*/}: apt-get update: $(tail -n 1 "$apt/log")" >&2
  for list in "$apt"/lists/*_main_binary-amd64_Packages*; do
    suite=${list##*_dists_}
    /usr/lib/apt/apt-helper cat-file "$list" | kernels_of "${suite%%_*}"
  done | sort -u >"$apt/kernels.new"
  if [ -s "$apt/kernels.new" ]; then mv "$apt/kernels.new" "$apt/kernels"; fi
fi

# Into $apt/debs, which holds nothing else then.
download() {
  (cd "$apt/debs" && rm -f ./*.deb && apt-get "${options[@]}" download "$@" >/dev/null 2>"$apt/log")
}

# Unpacks what was downloaded, and says how much that was.
unpack() {
  rm -rf "${1:?}"
  mkdir -p "$1"
  for deb in "$apt"/debs/*.deb; do dpkg-deb -x "$deb" "$1"; done
  cat "$apt"/debs/*.deb | wc -c >"$1/.bytes"
  rm -f "$apt"/debs/*.deb
}
