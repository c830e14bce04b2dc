# Debian's packages as raw material, for the scripts beside this file: fetched with the system's own sources (contrib added in a copy of them), unpacked, never
# installed. To be sourced.

# contrib_begin FOLDER: lists of packages, contrib's among them, in FOLDER.
contrib_begin() {
    contrib=$1
    command -v apt-get >/dev/null 2>&1 || { echo "no apt-get here: no packages" >&2; return 1; }
    rm -rf "$contrib"
    mkdir -p "$contrib/sources.d" "$contrib/lists/partial" "$contrib/archives/partial"
    : >"$contrib/sources.list"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        # Both forms of a source: "Components: main" and "deb URI SUITE main".
        sed -e '/^Components:/{/contrib/!s/$/ contrib/}' -e '/^deb .*[[:space:]]main/{/contrib/!s/$/ contrib/}' "$file" >"$contrib/sources.d/$(basename "$file")"
    done
    if [ -e "$contrib/sources.d/sources.list" ]; then mv "$contrib/sources.d/sources.list" "$contrib/sources.list"; fi
    contrib_apt apt-get -q update >&2
}

# contrib_apt TOOL ARGUMENT...: apt-get or apt-cache over those lists.
contrib_apt() {
    tool=$1
    shift
    "$tool" -o Dir::Etc::sourcelist="$contrib/sources.list" -o Dir::Etc::sourceparts="$contrib/sources.d" -o Dir::State::lists="$contrib/lists" \
        -o Dir::Cache::archives="$contrib/archives" -o APT::Sandbox::User=root "$@"
}

# contrib_depends PACKAGE PATTERN: names the package depends on that match a basic regular expression.
contrib_depends() {
    contrib_apt apt-cache depends "$1" | sed -n "s/^[ |]*Depends: \($2\)\$/\1/p" | sort -u
}

# contrib_unpack FOLDER PACKAGE...: fetches packages and unpacks them into FOLDER.
contrib_unpack() {
    into=$1
    shift
    mkdir -p "$into"
    (cd "$contrib/archives" && rm -f ./*.deb && contrib_apt apt-get -q download "$@" >&2) || return 1
    for package in "$contrib"/archives/*.deb; do dpkg-deb -x "$package" "$into" || return 1; done
    rm -f "$contrib"/archives/*.deb
}

# contrib_end: removes the lists.
contrib_end() { rm -rf "$contrib"; }
