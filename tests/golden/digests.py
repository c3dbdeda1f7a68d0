VOCABULARIES=[]
def strings_document(): return {}
