from tycho.cli import main

main()
