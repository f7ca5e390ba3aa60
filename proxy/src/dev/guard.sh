# Reads which process groups are there ("+ NUMBER") and are no more ("- NUMBER"), until whoever writes it is gone. Then it ends
# what is left, and takes away the directory $1.
groups=
while read -r what group; do
    rest=
    for one in $groups; do
        [ "$one" = "$group" ] || rest="$rest $one"
    done
    groups=$rest
    [ "$what" = - ] || groups="$groups $group"
done
tell() {
    for one in $groups; do
        kill -s "$1" -- "-$one"
    done
}
if [ -n "$groups" ]; then
    tell TERM
    sleep 2
    tell KILL
fi
rm -rf -- "$1"
