"""From a folder on a laptop to an image on the platform: what is sent, how, and what is shown meanwhile.

    recipe       which way to build, and which Dockerfile
    ignore       which files of the folder belong to the build
    context      the folder as an OCI artifact: deterministic packs and an index
    dockerfile   a Dockerfile read line by line
    stages       what it will do, and mistakes found before anything is sent
    plainer      the same Dockerfile in the words of older builders
    push         what a registry lacks is sent to it
    delivery     all packs of a folder, several at a time
    credentials  who one is at a registry, as docker knows it
    remote       the build on a host: started, followed, cancelled
    image        all of it, the whole way
    local        the same build by a builder on this computer
    display      steps as they go, and the failing one again at the end

Building itself happens on a host, or in the builder on this computer.
"""
