"""From a folder to an app that can be deployed: what `caddis launch` does before it deploys.

    wishes        what was said on the command line
    template      a folder from somebody else's repository
    source        what is to run: an image, a Dockerfile, what fly.toml says, or what detection finds
    surroundings  what of the platform it depends on
    naming        the name
    plan          all of it in one value, each part with where it comes from
    fly_toml      the file that says it, made or edited
    workflow      a deploy for each push
    unfinished    what a launch intends, kept until it is done
    apps          the app, found or made
    secrets       what is generated, and what only its owner has

A plan is made without changing anything, so it can be shown, and refused.
"""
